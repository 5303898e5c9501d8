"""The attention kernels: one file each, ending in KERNELS, the rows that say what it can do."""
