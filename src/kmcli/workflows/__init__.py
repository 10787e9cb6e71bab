"""What each verb of `km` does, one function a verb: read this first.

    documents.py  add, ls, show, mv, rm
    material.py   synth
    study.py      train
    asking.py     ask: who is asked
    answer.py     ask of one document
    comparing.py  compare
    serve.py      serve
    share.py      export
    models.py     models
    setup.py      doctor
    machine.py    what this machine is
    house.py      what every verb is given: the library, the settings, whom to report to
    batch.py      how a verb works on several documents

A verb takes values, does its work through the rooms below, and returns a frozen result that the door renders. The door
imports the module of the verb it runs and no other, so that `km ls` waits for nothing that `km train` needs.
"""
