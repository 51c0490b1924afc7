"""What the help of a verb ends with: commands that run as they stand in the repository."""

EXAMPLES = {
    "simulate": (
        "fmriscale simulate --config configs/simulate_demo.yaml",
        "fmriscale simulate --form corpus --n_subjects 4 --out try/corpus",
    ),
    "shard": (
        "fmriscale shard --config configs/corpus_demo.yaml",
        "fmriscale shard --config configs/corpus_haxby.yaml --plan",
    ),
    "inspect": (
        "fmriscale inspect demo/corpus",
        "fmriscale inspect demo/corpus --report corpus.html",
    ),
    "verify": (
        "fmriscale verify demo/corpus",
        "fmriscale verify demo/corpus --repair --jobs 4",
    ),
    "plan": (
        "fmriscale plan --config configs/pretrain_base.yaml --nodes 2 --gpus 8 --gpu H100",
        "fmriscale plan --config configs/pretrain_demo.yaml --cpu --gpus 2",
    ),
    "pretrain": (
        "fmriscale pretrain --config configs/pretrain_demo.yaml",
        "fmriscale pretrain --data.corpus demo/corpus --out runs/try --train.steps 50 --train.lr 1e-3",
    ),
    "embed": (
        "fmriscale embed demo/pretrain demo/corpus --out vectors.npz",
        "fmriscale embed demo/pretrain demo/corpus --out people.parquet --rows person",
    ),
    "probe": (
        "fmriscale probe --config configs/probe_abide_diagnosis.yaml",
        "fmriscale probe --config configs/probe_abide_diagnosis.yaml --out probes/sex --target sex",
    ),
    "finetune": (
        "fmriscale finetune --config configs/timbre.yaml",
        "fmriscale finetune --config configs/timbre.yaml --task-id 0 --num-tasks 4",
    ),
    "report": (
        "fmriscale report demo/pretrain",
        "fmriscale report demo/study --out study.html",
        "fmriscale report demo/pretrain --to tensorboard runs/tensorboard",
    ),
    "publish": (
        "fmriscale publish demo/pretrain --out published",
        "fmriscale publish demo/pretrain --to hf://ORG/NAME --private",
    ),
    "completion": (
        "fmriscale completion bash",
        "fmriscale completion zsh",
    ),
}
"""Verb: one or two commands."""

NOTES = {
    "pretrain": """\
This is one process. A launcher starts several ranks, which share each batch; the options are the same:

  deepspeed fmriscale/train.py --config FILE                        every GPU of this machine
  deepspeed --num_accelerators 2 fmriscale/train.py --config FILE   two ranks on its CPUs
  torchrun --nproc_per_node 2 fmriscale/train.py --config FILE      two ranks
  sbatch --nodes 2 slurm/pretrain.sh FILE                           every GPU of two nodes

Without the repository: deepspeed --module fmriscale.train, torchrun -m fmriscale.train, srun fmriscale
pretrain.
Run again, the same command resumes from the newest checkpoint. Exit code 85: stopped on request and saved,
start it again.""",
    "completion": """\
For every shell that you open from now on, write the script where the shell looks for it:

  fmriscale completion bash > ~/.local/share/bash-completion/completions/fmriscale
  fmriscale completion zsh > "${fpath[1]}/_fmriscale"
  fmriscale completion fish > ~/.config/fish/completions/fmriscale.fish

For this one: source <(fmriscale completion bash)""",
}
"""Verb: what stands above its examples."""


def verb_of(prog: str) -> str:
    """Return the verb of a program's name: `fmriscale shard` and `fmriscale-shard` are shard."""
    return prog.replace("fmriscale-", "fmriscale ").partition(" ")[2]


def ending_of(prog: str) -> str:
    """Return what the help of a verb ends with; nothing where the program is none of them."""
    verb = verb_of(prog)
    if verb not in EXAMPLES:
        return ""
    blocks = [NOTES[verb], ""] if verb in NOTES else []
    return "\n".join([*blocks, "examples:", *(f"  {line}" for line in EXAMPLES[verb])])
