"""Every message with which fmriscale refuses something, from its source, as templates with placeholders.

A message is what stands in a `UserError`, in a mistake of a recipe, or in a line of quarantine. Names in it
are followed to the texts that they stand for, where those stand in the same function, module or package; what
is left is a placeholder, `<file>`.
"""

import ast
import functools
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "fmriscale"
PRINTED = "fmriscale: error: "
"""What the command line puts before a message."""
MOST = 8
"""Most forms of one message; a name that would give more stays a placeholder."""
LEAST_WORDS = 2
"""A text with fewer words of its own hands on another message, which has its own entry."""
VALUE_ERRORS = ("config/", "ingest/", "simulate/", "transformer.py")
"""Where a ValueError is shown to the user."""
SUGGESTIONS = ("did_you_mean", "did_you_mean_key", "nearest", "near")
"""Functions whose text says what may be meant; it is left out."""
TEXT = ("str", "str | None")
"""What a function returns whose texts are followed."""
RENAMED = {"self": "<corpus>"}
"""Names that say nothing to a reader, and what stands for them."""
OPAQUE = {"type_words": "type"}
"""Functions whose text is a value, and its name."""
ARGUMENTS = {"UserError": 0, "DamageError": 0, "Mistake": 1, "_note": 2, "_Broken": 1, "Damage": 1}
"""Which argument of a call is the message."""


class Refusal(NamedTuple):
    """One message."""

    module: str
    """Path below fmriscale/."""
    reason: str
    """Of a line of quarantine; "" of other messages."""
    forms: tuple[str, ...]
    """The message in its forms."""


class Place(NamedTuple):
    """Where an expression stands: it decides what a name means."""

    module: "Module"
    function: ast.FunctionDef | None
    followed: tuple[str, ...] = ()
    """Names that are being followed."""


class Module:
    """A parsed file, with its functions and the texts that its names stand for."""

    def __init__(self, path: Path) -> None:
        self.name = path.relative_to(PACKAGE).as_posix()
        self.tree = ast.parse(path.read_text())
        self.functions = [node for node in ast.walk(self.tree) if isinstance(node, ast.FunctionDef)]
        self.function_of: dict[int, ast.FunctionDef] = {}
        for function in self.functions:  # inner functions come later, and replace the outer one
            self.function_of |= {id(node): function for node in ast.walk(function)}
        self.blocks: dict[int, tuple[int, ...]] = {}
        self._note_blocks(self.tree, ())
        self.values: dict[str, list[ast.expr]] = {}
        for node in self.tree.body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                self.values.setdefault(node.targets[0].id, []).append(node.value)
        self.imported = {
            alias.asname or alias.name: (node.module, alias.name)
            for node in ast.walk(self.tree)
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fmriscale.")
            for alias in node.names
        }

    def _note_blocks(self, node: ast.AST, above: tuple[int, ...]) -> None:
        """Note for every node the blocks of statements that hold it, from the outside."""
        self.blocks[id(node)] = above
        for value in (getattr(node, name, None) for name in node._fields):
            if isinstance(value, list):
                is_block = any(isinstance(item, ast.stmt) for item in value)
                inside = (*above, id(value)) if is_block else above
                for item in value:
                    if isinstance(item, ast.AST):
                        self._note_blocks(item, inside)
            elif isinstance(value, ast.AST):
                self._note_blocks(value, above)

    def place(self, node: ast.AST) -> Place:
        """Return where a node stands."""
        return Place(self, self.function_of.get(id(node)))


@functools.cache
def modules() -> tuple[Module, ...]:
    """Return all modules of the package."""
    return tuple(Module(path) for path in sorted(PACKAGE.rglob("*.py")))


@functools.cache
def error_classes() -> dict[str, int]:
    """Return the classes of errors of the user, and which argument is the message."""
    found = dict(ARGUMENTS)
    classes = [node for m in modules() for node in ast.walk(m.tree) if isinstance(node, ast.ClassDef)]
    for _ in range(3):  # a class may be defined before the one that it is made from
        for node in classes:
            if {base.id for base in node.bases if isinstance(base, ast.Name)} & {"UserError", *found} - set(
                ("Mistake", "_note", "_Broken", "Damage")
            ):
                found.setdefault(node.name, 0)
    return found


@functools.cache
def refusals() -> tuple[Refusal, ...]:
    """Return all messages, in the order of the source; one that stands twice comes once."""
    found = {}
    for module in modules():
        for reason, expression in _messages(module):
            place = module.place(expression)
            forms = dict.fromkeys(
                " ".join(form.removeprefix(PRINTED).split()) for form in _forms(expression, place)
            )
            told = tuple(form for form in forms if own_words(form) >= LEAST_WORDS)
            if told:
                found.setdefault((reason, told), Refusal(module.name, reason, told))
    return tuple(found.values())


def _messages(module: Module) -> Iterator[tuple[str, ast.expr]]:
    """Yield the expressions of messages, with the reason for quarantine."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call):
            yield from _of_call(module, node)
        elif isinstance(node, ast.Yield) and isinstance(node.value, ast.Tuple):
            function = module.function_of.get(id(node))
            returns = ast.unparse(function.returns) if function and function.returns else ""
            if len(node.value.elts) == 2 and (
                "Rule" in returns or "mistakes" in getattr(function, "name", "")
            ):
                yield "", node.value.elts[1]


def _of_call(module: Module, node: ast.Call) -> Iterator[tuple[str, ast.expr]]:
    name = _called(node)
    if name in ("Rejected", "Rejection", "_misfit"):
        given = node.args[-2:]
        reason = given[0].value if isinstance(given[0], ast.Constant) else ""
        if len(given) == 2 and not ast.unparse(given[1]).endswith(".detail"):
            yield str(reason), given[1]
    elif name in error_classes():
        if len(node.args) > error_classes()[name]:
            yield "", node.args[error_classes()[name]]
    elif node.args and _is_told(name, node, module):
        yield "", node.args[0]


def _is_told(name: str, node: ast.Call, module: Module) -> bool:
    """Tell whether the first argument of another call reaches the user as a refusal."""
    match name:
        case "ValueError" | "TypeError":
            return module.name.startswith(VALUE_ERRORS)
        case "append":
            return "mistakes" in ast.unparse(node.func) and not isinstance(node.args[0], ast.Call)
        case "print":
            return PRINTED in ast.unparse(node.args[0])
    return False


def _called(node: ast.Call) -> str:
    function = node.func
    return function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")


def _forms(node: ast.expr, place: Place) -> list[str]:
    """Return the forms of a text."""
    match node:
        case ast.Constant(value=str(text)):
            return [text]
        case ast.JoinedStr(values=pieces):
            return _joined([_forms(piece, place) for piece in pieces])
        case ast.FormattedValue(value=value):
            return _forms(value, place)
        case ast.BinOp(op=ast.Add(), left=left, right=right) if _is_text(node):
            return _joined([_forms(left, place), _forms(right, place)])
        case ast.BinOp(op=ast.Mult(), left=ast.Constant(value=str(text))):
            return ["", text]
        case ast.IfExp(body=body, orelse=other):
            return _few([*_forms(body, place), *_forms(other, place)], node)
        case ast.BoolOp(values=values) if any(_is_text(value) for value in values):
            return _few([form for value in values for form in _forms(value, place)], node)
        case ast.Name():
            return _of_name(node, place) or [_placeholder(node)]
        case ast.Call() if _called(node) in SUGGESTIONS:
            return [""]
        case ast.Call() if _called(node) in OPAQUE:
            return [f"<{OPAQUE[_called(node)]}>"]
        case ast.Call():
            return _of_call_of_ours(node, place) or [_placeholder(node)]
    return [_placeholder(node)]


def _joined(pieces: list[list[str]]) -> list[str]:
    """Return every sequence of forms; where there are too many, the later choices stay with their first."""
    while len(pieces) > 1 and _product(pieces) > MOST:
        largest = max(range(len(pieces)), key=lambda i: len(pieces[i]))
        pieces[largest] = pieces[largest][: max(1, len(pieces[largest]) - 1)]
    return ["".join(chosen) for chosen in itertools.product(*pieces)]


def _product(pieces: list[list[str]]) -> int:
    return functools.reduce(lambda count, forms: count * len(forms), pieces, 1)


def _few(forms: list[str], node: ast.expr) -> list[str]:
    unique = list(dict.fromkeys(forms))
    return unique if len(unique) <= MOST else [_placeholder(node)]


def _is_text(node: ast.expr) -> bool:
    """Tell whether an expression is a text that stands in the source, at least in part."""
    match node:
        case ast.Constant(value=str()) | ast.JoinedStr():
            return True
        case ast.IfExp(body=body, orelse=other):
            return _is_text(body) or _is_text(other)
        case ast.BinOp(op=ast.Add() | ast.Mult(), left=left, right=right):
            return _is_text(left) or _is_text(right)
        case ast.BoolOp(values=values):
            return any(map(_is_text, values))
    return False


def _of_name(node: ast.Name, place: Place) -> list[str]:
    """Return the texts that a name stands for; none where it is a value."""
    name, module = node.id, place.module
    if name in place.followed:
        return []
    inside = place._replace(followed=(*place.followed, name))
    forms: list[str] = []
    if place.function is not None:
        values = _assigned(module, place.function, node)
        if any(_is_text(value) or _is_call_of_ours(value, module) for value in values):
            forms = [form for value in values for form in _forms(value, inside)]
        elif not values:
            forms = _of_parameter(name, inside)
    if not forms and name in module.values:
        home = inside._replace(function=None)
        forms = [form for value in module.values[name] if _is_text(value) for form in _forms(value, home)]
    if not forms and name in module.imported:
        forms = _of_import(*module.imported[name], inside.followed)
    unique = list(dict.fromkeys(forms))
    return unique[:MOST] if any(map(own_words, unique)) else []


def _assigned(module: Module, function: ast.FunctionDef, use: ast.Name) -> list[ast.expr]:
    """Return what may have been assigned to a name last, before a line that uses it."""
    found: list[tuple[int, ast.AST, ast.expr]] = []
    for node in ast.walk(function):
        for target, value in _pairs(node):
            if isinstance(target, ast.Name) and target.id == use.id and node.lineno <= use.lineno:
                found.append((node.lineno, node, value))
    values, blocks = [], module.blocks[id(use)]
    for _, node, value in sorted(found, key=lambda each: -each[0]):
        values.append(value)
        if module.blocks[id(node)] == blocks[: len(module.blocks[id(node)])]:
            break  # this one is always passed on the way
    return values


def _pairs(node: ast.AST) -> Iterator[tuple[ast.expr, ast.expr]]:
    """Yield the targets of an assignment with what they are given."""
    targets = node.targets if isinstance(node, ast.Assign) else []
    if isinstance(node, ast.NamedExpr):
        yield node.target, node.value
    for target in targets:
        yield target, node.value
        if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
            yield from zip(target.elts, node.value.elts, strict=False)


def _is_call_of_ours(node: ast.expr, module: Module) -> bool:
    return isinstance(node, ast.Call) and _function(_called(node), module) is not None


def _function(name: str, module: Module) -> tuple[Module, ast.FunctionDef] | None:
    """Return the function of a module, or of one that it imports from, that returns a text."""
    if name in SUGGESTIONS:
        return None
    if name in module.imported:
        home = _module(module.imported[name][0])
        module = home or module
    for function in module.functions:
        if function.name == name and function.returns and ast.unparse(function.returns) in TEXT:
            return module, function
    return None


def _of_call_of_ours(node: ast.Call, place: Place) -> list[str]:
    """Return the texts that a function of the package returns."""
    found = _function(_called(node), place.module)
    if found is None or found[1].name in place.followed:
        return []
    module, function = found
    inside = Place(module, function, (*place.followed, function.name))
    returned = [n.value for n in ast.walk(function) if isinstance(n, ast.Return) and n.value is not None]
    forms = [form for value in returned for form in _forms(value, inside)]
    unique = list(dict.fromkeys(forms))
    return unique[:MOST] if any(map(own_words, unique)) else []


def _of_parameter(name: str, place: Place) -> list[str]:
    """Return the texts that callers in the same module give to a parameter of a function."""
    function = place.function
    assert function is not None
    parameters = [argument.arg for argument in function.args.args if argument.arg not in ("self", "cls")]
    if name not in parameters:
        return []
    number, forms = parameters.index(name), []
    for node in ast.walk(place.module.tree):
        if not isinstance(node, ast.Call) or _called(node) != function.name:
            continue
        given = {keyword.arg: keyword.value for keyword in node.keywords}
        value = node.args[number] if len(node.args) > number else given.get(name)
        caller = place.module.function_of.get(id(node))
        if isinstance(value, ast.Name) or (value is not None and _is_text(value)):
            texts = _forms(value, Place(place.module, caller, place.followed))
            forms += [text for text in texts if own_words(text)]
    return list(dict.fromkeys(forms))[: 2 * MOST]


def _of_import(module_name: str, name: str, followed: tuple[str, ...]) -> list[str]:
    """Return the texts of a constant of another module."""
    if (home := _module(module_name)) is None:
        return []
    if name in home.values:
        texts = [value for value in home.values[name] if _is_text(value)]
        return [form for value in texts for form in _forms(value, Place(home, None, followed))]
    return _of_import(*home.imported[name], followed) if name in home.imported else []


def _module(dotted: str) -> Module | None:
    path = dotted.removeprefix("fmriscale.").replace(".", "/")
    return next((m for m in modules() if m.name in (f"{path}.py", f"{path}/__init__.py")), None)


def _placeholder(node: ast.expr) -> str:
    """Return a value as a word in angle brackets."""
    match node:
        case ast.Name(id=name):
            return RENAMED.get(name, f"<{name.strip('_').lower()}>")
        case ast.Constant(value=value):
            return str(value)
        case ast.Attribute(attr="strerror"):
            return "<reason>"
        case ast.Attribute(attr="iloc", value=value):
            return _placeholder(value)
        case ast.Attribute(attr="__name__"):
            return "<type>"
        case ast.Attribute(attr=attr):
            return f"<{attr.strip('_')}>"
        case ast.Subscript(value=value):
            return _placeholder(value)
        case ast.Call(func=ast.Name(id="len" | "sum")):
            return "<number>"
        case ast.Call(func=ast.Attribute(attr="join")) if node.args:
            return _placeholder(node.args[0])
        case ast.Call(func=ast.Name(id="getattr")):
            return "<value>"
        case ast.Call(func=ast.Name(id="map"), args=[*_, last]):
            return _placeholder(last)
        case ast.Call(func=ast.Attribute(value=ast.Name(id="self"), attr=attr)):
            return f"<{attr.strip('_')}>"
        case ast.Call(func=ast.Name(), args=[first, *_]):
            return _placeholder(first)
        case ast.Call(func=ast.Attribute(value=ast.Name(id="np" | "shlex")), args=[first, *_]):
            return _placeholder(first)
        case ast.Call(func=ast.Attribute(value=value)):
            return _placeholder(value)
        case ast.GeneratorExp(elt=elt) | ast.ListComp(elt=elt):
            return _placeholder(elt)
        case ast.FormattedValue(value=value):
            return _placeholder(value)
        case ast.IfExp(body=body):
            return _placeholder(body)
        case ast.BinOp(left=ast.Constant(), right=right):
            return _placeholder(right)
        case ast.BinOp(left=left):
            return _placeholder(left)
    return "<value>"


def own_words(form: str) -> int:
    """Count the words of a message that are not placeholders."""
    return len(re.findall(r"[A-Za-z]{2,}", re.sub(r"<\w+>", " ", form)))


@functools.cache
def slugs() -> dict[str, Refusal]:
    """Return the messages by their anchors: the first own words of each, and more where two are alike."""
    found: dict[str, Refusal] = {}
    for refusal in refusals():
        words = re.findall(r"[a-z0-9]+", re.sub(r"<\w+>", " ", refusal.forms[0]).lower())
        ends = [n for n in (7, 9, 12, 16, len(words)) if n <= len(words)] or [len(words)]
        names = ["-".join(([refusal.reason] if refusal.reason else []) + words[:n]) for n in ends]
        names += [f"{names[-1]}-in-{Path(refusal.module).stem.replace('_', '-')}"]
        names += [f"{names[-1]}-{n}" for n in range(2, 9)]
        found[next(name for name in names if name not in found)] = refusal
    return found
