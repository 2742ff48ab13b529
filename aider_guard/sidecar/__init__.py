"""The sidecar: all work that is slow or may fail, in a process that ends when the guard does."""
