"""What changed between two dumps of one machine, frame by frame and process by process."""
