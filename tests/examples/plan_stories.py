"""The examples of `tigerjax plan`: single plans, and searches, which take minutes each."""

from stories import Line, config_as

PLANS = [
    Line("tigerjax plan configs/llama2_7b.py --topology v5p:4x4x4 --tokens 300e9"),
    Line("tigerjax plan configs/tiger_70b_sft.py --topology v5p:4x4x4 --tokens 300e9 --json plan.json"),
    Line("tigerjax plan configs/tiger_70b_sft.py --topology v5p:4x4x4"),
    Line(
        "tigerjax plan configs/tiger_7b_pretrain.py --topology v5e:16x16 --mesh.fsdp 256"
        " --optim.gradient_accumulation_steps 4"
    ),
    Line("tigerjax plan configs/tiger_7b_reward.py --topology v5p:4x4x4 --answers 4"),
    Line("tigerjax plan configs/llama2_7b.py --topology tpu7x:2x2x1 --mesh.fsdp 8"),
    Line(
        "tigerjax plan configs/tiger_7b_pretrain.py --topology v5p:4x4x4 --libtpu-flags"
        " xla_tpu_scoped_vmem_limit_kib=32768"
    ),
]
SOON = "the search stops when its time is over: here it ends after the first candidates"
SEARCHES = [
    Line(
        "tigerjax plan configs/tiger_7b_pretrain.py --topology v5p:4x4x4 --search --budget-minutes 60",
        with_={"minutes 60": "minutes 5"},
        why=SOON,
    ),
    Line(
        "tigerjax plan configs/tiger_70b_pretrain.py --topology v5p:4x8x8 --search --budget-minutes 28",
        with_={"minutes 28": "minutes 5"},
        why=SOON,
    ),
    Line(
        "tigerjax plan configs/tiger_70b_pretrain.py --topology v5p:4x4x4 --search --budget-minutes 60",
        with_={"minutes 60": "minutes 5"},
        why=SOON,
    ),
    Line(
        "tigerjax plan pretrain.py --topology v5p:4x4x4 --search",
        with_={"--search": "--search --budget-minutes 5"},
        why=SOON,
        before=config_as("pretrain.py", "configs/tiger_13b_pretrain.py", "planned"),
    ),
]
