"""The sidecar: everything slow or fallible, in a process that ends when the guard does."""
