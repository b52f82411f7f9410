"""The workbench: the state that a user edits, what may be set, comparing, saving.

Every action of the interface is a call here: a :class:`~dse.app.state.State` is immutable, each transition
returns a new one, and results follow from the state alone.
"""
