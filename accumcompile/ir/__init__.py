"""The building blocks of a program: placements, sizes, operands, the loop, and custom operators."""
