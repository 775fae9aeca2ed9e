"""The program's script (`__main__`), and what stands for it in the processes where its calls run.

In the standard library's pools a child has the script's module: functions share its globals, classes are found there
under their names, and what one call sets the next one sees. Here a slot has a *stand-in* (`standin`): a module that
is `sys.modules["__main__"]` while the slot runs calls of that program. It is filled from *entries* (`entries`): each is
one global of the script, pickled by itself (`entry_pickler`, `makers`), with a version that is a hash of the pickle.

A definition of a function names the entries that its calls need (`needs`): all globals that the code can reach by
name, with their versions as they are at `submit`. Before a call begins, the stand-in loads those entries whose version
is another one than the last that it has received. So

    a global that the program has changed              arrives anew, as it is at `submit`
    a global that the program has not changed          keeps what calls have made of it in that slot
    a class                                            is made once, and changed in place where the program changed it
    a function                                         shares the stand-in's dictionary as its globals
    what it has imported from a module by its name     is the module's own in that slot, as far as `imported` finds it

What code cannot be seen to need (`globals()[name]`, unpickling inside of a call) is in the *image* (`image`): all
functions and classes of the script, and its small plain data, loaded by the stand-in when somebody asks for a name.
"""
