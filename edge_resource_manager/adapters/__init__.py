"""Everything outside this manager, one file for each: parsed here, and refused here when it is wrong."""
