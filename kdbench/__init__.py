"""kdbench: head-to-head benchmarks of knowledge-distillation methods."""
