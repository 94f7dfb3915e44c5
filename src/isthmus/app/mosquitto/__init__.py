"""Mosquitto's configuration files, read as they are: text in, this project's own settings out.

The way of a line: `grammar` splits it, `blocks` finds what it belongs to and checks it against the
table in `options`, `translation` (with `broker`, `listeners`, `bridges`) writes it as plain data
into a `Draft`, `loading` makes settings of that, `yaml_text` a commented file. Nothing that runs
later knows that there was a Mosquitto.
"""
