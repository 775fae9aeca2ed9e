"""The program's script (`__main__`), and its stand-in in the processes where the program's calls run.

In the standard library's pools a child has the script's module: functions share its globals, classes are found there
under their names, and a call sees what earlier calls have set. Here a slot has a *stand-in* (`standin`): a module that
is `sys.modules["__main__"]` while the slot runs calls of that program. It is filled from *entries* (`catalogue`): each
is one global of the script, pickled by itself (`pickler`, `makers`), with a version that is a hash of the pickle.

A definition of a function (`definition`) has the entries that its calls need: all globals that the code can reach by
name (`looks`), with their versions as they are at `submit`. Before a call begins, the stand-in loads those entries
whose version differs from the last one that it has received. So

    a global that the program has changed              arrives anew, as it is at `submit`
    a global that the program has not changed          keeps what calls have made of it in that slot
    a class                                            is created once, and changed in place as in the program
    a function                                         shares the stand-in's dictionary as its globals
    an object that was imported from a module          is the module's own in that slot, if `imported` finds it

Code may also reach globals in ways that cannot be followed (`globals()[name]`, unpickling inside of a call). For these
there is the *image* (`images`): all functions and classes of the script, and its small plain data. The stand-in loads a
global of it when code asks for the name.
"""
