import os

# Before torch is imported: miniatures gain nothing from threads, and lose much where cores are busy.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["WANDB_MODE"] = "offline"
os.environ.pop("WANDB_API_KEY", None)
