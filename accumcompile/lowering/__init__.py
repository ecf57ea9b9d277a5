def lower(program, settings):
    return program
