"""Trains one LoRA configuration: `loratune train` under the name that a W&B sweep's agent calls.

python train_lora.py --train_data TRAIN --val_data VAL --test_data TEST --output_dir DIR [--lora.r 32 ...]
"""

import sys

from tune.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "train")
    main()
