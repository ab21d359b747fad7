"""Many dumps, on one machine or many: a task for each, and what comes out of all of them."""
