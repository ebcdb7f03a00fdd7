"""Work done beside this process: independent work items, in workers that each hold something open, one writer here.

`supervisor.run_work` is all that a room above calls. It is given

- an `Opening` (`work.py`), which every worker is sent and opens once: it gives the function that does an item;
- a `Work`, which hands out shares of items and takes the replies, all in the calling thread: it is the one writer.

An engine is a `Fleet` of workers: `processes.py` has processes of this machine (`local`), `ray_actors.py` actors of a
Ray cluster (`ray`). Both are watched in the same way: a worker that ends, or gives no sign of life for a while, is
replaced, and what it had not done is given to another.
"""
