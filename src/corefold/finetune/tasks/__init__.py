"""The kinds of tasks, one file each: what differs between learning classes, numbers and texts."""
