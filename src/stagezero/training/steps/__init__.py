"""One training method, one file. Each is a function (input folder, output folder, step, examples, seed) that trains and saves."""
