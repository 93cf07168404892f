from edgeres.cli import entry

entry()
