"""Where images come from, and how they become batches of views.

which      images, shards, shard_places, tar_samples    folders, lists and tar shards
in order   loading, batches, shard_feed                 batches, whatever is damaged, from any step of an epoch on
as views   augment, draws, decode                       two views of an image, drawn from (seed, epoch, number, view)
together   batched, operations, blur                    a whole batch on the device
before     pack                                         a folder -> shards
"""
