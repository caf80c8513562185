"""What goes into the model archive: preprocessing, protocols and the TorchServe handler."""
