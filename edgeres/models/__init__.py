"""The ResNet family and the checkpoint formats it is kept in. With `edgeres.export`, the only user of torch."""
