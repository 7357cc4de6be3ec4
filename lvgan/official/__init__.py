"""The published pickles (LongVideoGAN, NVIDIA) as checkpoints of ours, without running anything in them."""
