"""A function that tells people of jobs whose GPUs have little to do. This folder is what is deployed."""
