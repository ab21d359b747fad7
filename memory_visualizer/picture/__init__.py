"""How a snapshot is shown: colours, order of the pages, PNG."""
