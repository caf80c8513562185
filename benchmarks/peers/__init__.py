"""The servers that the project is compared with, each as its own documentation recommends."""
