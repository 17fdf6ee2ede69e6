"""From run directories to tables, energy, cost and reports. Reads run directories and data files only."""
