"""What a program is made of: placements, sizes, operands, the loop, and operators of our own."""
