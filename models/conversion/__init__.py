"""Import of a foreign model file: read and run in a process with limits, checked on pictures.

`add` takes the steps in this order:

convert.read     copies of the user's files; `file_kind`: what they are, by their bytes alone; the
                 network's ports and metadata
settle           which format its outputs have and what its input is: of what `guess` finds
                 possible, by what the user says; asks where several fit
convert.build    the network file of the model folder, pre-processing inside
proof            the built network's boxes on pictures: refused where they make no sense
convert.assemble the folder with its manifest; then `registry` takes it

Whatever opens the foreign file runs in a process with limits: `sandbox` asks it, `sandbox_main` is
it, `sandbox_tasks` and `file_kind` are what it does.
"""
