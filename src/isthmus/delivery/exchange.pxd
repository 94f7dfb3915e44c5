# Compiled as it is: it has no hot types of its own.
