"""Images -> MoCo v1/v2 checkpoint. Nothing heavy is loaded here; see `pretrain.train`."""
