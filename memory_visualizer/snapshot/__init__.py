"""What is known of a dump, as data and answers."""
