"""Training on a Kubernetes cluster: a stage becomes an Indexed Job whose pods torchrun joins.

`run` is the side of the worker, `pod` what runs in the pods; `objects` says what is created, `cluster` talks to the API
server by plain HTTP.
"""
