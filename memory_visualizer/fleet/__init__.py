"""Many dumps, analysed on one machine or many: a task for each dump, and outputs for all dumps."""
