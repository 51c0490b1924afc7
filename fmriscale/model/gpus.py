"""What is known of GPUs that are not there."""

GPUS = {
    "A100-40GB": (40, 312),
    "A100": (80, 312),
    "A40": (48, 150),
    "B200": (180, 2250),
    "H100": (80, 989),
    "H200": (141, 989),
    "L40S": (48, 362),
    "MI300X": (192, 1307),
    "V100": (32, 125),
}
"""Memory, GiB, and dense 16-bit peak, TFLOP/s, of GPUs as their makers state them."""
