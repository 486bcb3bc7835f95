"""Sources of images: folders, tar shards, Parquet and Hugging Face datasets, and the demo set."""
