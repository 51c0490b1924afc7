"""Names of labels, in every form in which atlases come."""

import gzip

import pytest
from scans import N_LABELS

from fmriscale.common.errors import UserError
from fmriscale.config import FeatureConfig
from fmriscale.ingest.read.labels import feature_labels

NAMES = ("Left Thalamus", "Left Caudate", "Left Putamen", "Right Thalamus", "Right Caudate", "Area 4")
LABELS = tuple(range(10, 10 * N_LABELS + 1, 10))
PAIRS = list(zip(LABELS, NAMES, strict=True))


def rows(form, header="", pairs=PAIRS):
    return header + "".join(form.format(i=i, n=n, u=n.replace(" ", "_")) + "\n" for i, n in pairs)


def read(path, content, numbers=LABELS):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return feature_labels(FeatureConfig(name="f", columns=len(numbers), labels=str(path)), numbers)


LUT = "#$Id: LUT\n\n#No. Label Name:   R   G   B   A\n\n0   Unknown   0 0 0 0\n"
SNAP = """################
# IDX   -R-  -G-  -B-  -A--  VIS MSH  LABEL
    0     0    0    0        0  0  0    "Clear Label"
"""
FORMS = {
    "a.txt": rows("{i} {n}"),
    "reversed.txt": rows("{i} {n}", pairs=PAIRS[::-1]),
    "more.txt": rows("{i} {n}") + "99 elsewhere\n",
    "blanks.txt": rows("   {i}    {n}   ", header="\n\n") + "\n",
    "colon.txt": rows("{i}: {n}"),
    "dot.txt": rows("{i}. {n}"),
    "quoted.txt": rows('{i} "{n}"'),
    "tab.txt": rows("{i}\t{n}"),
    "header.txt": rows("{i} {n}", header="index name\n"),
    "plain.txt": rows("{n}"),
    "plain_quoted.txt": rows('"{n}"'),
    "plain.csv": rows("{n}", header="name\n"),
    "crlf.txt": rows("{i} {n}").replace("\n", "\r\n"),
    "mac.txt": rows("{i} {n}").replace("\n", "\r"),
    "bom.txt": "\ufeff" + rows("{i} {n}"),
    "bom_plain.txt": "\ufeff" + rows("{n}"),
    "utf16.txt": rows("{i} {n}").encode("utf-16"),
    "packed.txt.gz": gzip.compress(rows("{i} {n}").encode()),
    "a.csv": rows("{i},{n}"),
    "spaced.csv": rows('{i}, "{n}"'),
    "header.csv": rows("{i},{n}", header="index,name\n"),
    "excel.csv": rows("{i};{n}", header="\ufeffIndex;Name\n").replace("\n", "\r\n"),
    "roi.csv": rows("{i},{n}", header="label,region\n"),
    "label.csv": rows("{i},{n}", header="index,label\n"),
    "swapped.csv": rows("{n},{i}", header="name,index\n"),
    "name_first.csv": rows("{n},{i}"),
    "strange_index.csv": rows("{i},{n}", header="ROI number,region\n"),
    "colour.csv": rows("{i},{n},12,34,56", header="id,name,r,g,b\n"),
    "float.csv": rows("{i}.0,{n}", header="index,name\n"),
    "atlas_dseg.tsv": rows("{i}\t{n}\tLT\t#ff0000\t7", "index\tname\tabbreviation\tcolor\tmapping\n"),
    "names_dseg.tsv": rows("{i}\t{n}\tn/a", "index\tname\tabbreviation\n"),
    "order.tsv": rows("LT\t{n}\t{i}", "abbreviation\tname\tindex\n"),
    "ids.tsv": rows("7\t{i}\t{n}", "id\tindex\tname\n"),
    "column.tsv": rows("{n}\tx", "name\tcolor\n"),
    "schaefer_order.txt": rows("{i}\t{n}\t120 18 131 0"),
    "schaefer_columns.txt": rows("{i}\t{n}\t120\t18\t131\t0"),
    "aal.txt": rows("{i}\t{n}\t2001"),
    "lut.txt": rows("{i}  {n}   120  18 131  0", header=LUT),
    "lut_without_alpha.txt": rows("{i}  {n}   120  18 131"),
    "coordinates.txt": rows("{i} {n} -12.5 3e1 +4"),
    "snap.label": rows('   {i}   255    0    0        1  1  1    "{n}"', header=SNAP),
    "workbench.txt": rows("{n}\n{i} 120 18 131 255"),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_the_whole_names(tmp_path, name):
    assert read(tmp_path / name, FORMS[name]) == NAMES


def test_numbers_and_commas_belong_to_names_where_nothing_else_is_meant(tmp_path):
    visual = [(i, f"Visual {k}") for k, i in enumerate(LABELS)]
    comma = [(i, f"Thalamus, part {k}") for k, i in enumerate("abcdef")]
    three = [(i, f"{k}rd Ventricle") for k, i in enumerate(LABELS)]
    for pairs in (visual, three):
        for form in ("{i} {n}", "{n}"):
            assert read(tmp_path / "n.txt", rows(form, pairs=pairs)) == tuple(n for _, n in pairs)
    assert read(tmp_path / "n.txt", rows("{n}", pairs=comma)) == tuple(n for _, n in comma)
    indexed = [(i, n) for i, (_, n) in zip(LABELS, comma, strict=True)]
    assert read(tmp_path / "n.txt", rows("{i} {n}", pairs=indexed)) == tuple(n for _, n in comma)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("aal.txt", rows("{i} {u} 2001"), "the name .* is 'Left_Thalamus' or 'Left_Thalamus 2001'"),
        ("last.txt", rows("{n} {i}", pairs=PAIRS[::-1]), "may end in its index"),
        ("mixed.txt", rows("{i} {n}") + "Elsewhere\n", "'Elsewhere' begins with no number"),
        ("two.tsv", rows("{i}\t{n}\tLT"), r"columns 2 \('Left Thalamus', ...\) and 3 .* may be the name"),
        ("two.csv", rows("{i},{n},LT", "index,region,structure\n"), "columns region and structure may be"),
        ("three.csv", rows("{i},{i},{n}", "id,value,name\n"), "columns id and value may be the index"),
        ("gaps.tsv", rows("{i}\t{n}", "index\tname\n", PAIRS[1:]) + "n/a\tLeft\n", "does not hold a whole"),
        ("none.tsv", rows("{n}\tLT"), "no column of it is an index"),
        ("none.csv", rows("{i},7", "index,mapping\n"), "no column of it holds names"),
        ("twice.txt", rows("{i} {n}") + "10 Other\n", "calls label 10 'Left Thalamus' and 'Other'"),
        ("missing.txt", rows("{i} {n}", pairs=PAIRS[1:]), "no name for label 10"),
        ("zero.csv", "10,\n" + rows("{i},{n}", pairs=PAIRS[1:]), "no name for label 10"),
        ("few.txt", rows("{n}", pairs=PAIRS[1:]), "5 names for the 6 features"),
        ("back.txt", "Background\n" + rows("{n}"), "7 names .* remove the first, 'Background'"),
        ("empty.txt", "\n# nothing\n", "holds no names"),
        ("void.txt", "", r"empty \(0 bytes\)"),
        ("latin.txt", rows("{i} R\xe9gion").encode("latin-1"), "not UTF-8"),
        ("annex.txt", "/annex/objects/MD5E-s26--8fac.txt\n", "datalad get annex.txt"),
        ("fsl.xml", "<?xml?>\n<atlas><label>x</label></atlas>", "XML, .*write its names as a text"),
        ("table.xlsx", b"PK\x03\x04" + bytes(60), "a zip archive"),
        ("names.json", '{"10": "Left Thalamus"}', "JSON"),
    ],
    ids=lambda value: "-" if isinstance(value, bytes) or "\n" in value else None,
)  # fmt: skip
def test_what_can_be_read_in_two_ways_or_in_none_is_refused(tmp_path, name, content, words):
    with pytest.raises(UserError, match=f"{name}: .*{words}") as refusal:
        read(tmp_path / name, content)
    assert "\n" not in str(refusal.value)


def test_names_are_counted_from_one_where_there_is_no_atlas(tmp_path):
    assert read(tmp_path / "n.txt", "1 Left Thalamus\n2 Area 4\n", (1, 2)) == ("Left Thalamus", "Area 4")
    with pytest.raises(UserError, match="no name for label 2"):
        read(tmp_path / "n.txt", "0 Left Thalamus\n1 Area 4\n", (1, 2))
