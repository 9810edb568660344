"""Image files to batches of views, while training: crops, one decode for all views, processes that work ahead."""
