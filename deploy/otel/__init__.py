"""Where traces and logs go: a collector's configuration, and a small receiver for stacks that have no collector."""
