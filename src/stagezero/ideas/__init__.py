"""Ideas and their admission: the text that crosses from one stage to the next, and the checks it must pass."""
