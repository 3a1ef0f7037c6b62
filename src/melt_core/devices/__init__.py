"""Machines that models run on: found, judged fit, given the agent and the model, measured, and left clean."""
