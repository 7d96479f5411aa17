"""Backbone + data set -> metrics, one module a task, under frozen and versioned protocols.

Nothing heavy is loaded here; `evaluators.job.evaluate` reaches a task's module when its protocol is known.
"""
