"""Pictures of a snapshot: colours, order of the pages, PNG."""
