"""AOTAutograd: a graph from Dynamo becomes graphs of forward and backward, along one of the roads."""
