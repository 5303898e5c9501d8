"""The pipeline of the Hopper prefill kernel, in Gluon: a producer, and groups that multiply.

A program (``program``) takes one item after the other, which is a block of queries of a head
(``items``). Its producer brings tiles of K and V to shared memory with the bulk tensor copy engine
(``producer``), those of the next item while the last one is being finished. Each warpgroup, a group
for short, takes 64 queries (``consumer``), brings them to shared memory where the engine cannot
(``queries``), and goes through the tiles (``attend``): it starts products (``products``), takes the
softmax beside them (``softmax``), shrinks the output so far (``shrink``), and in the end writes its
rows (``output``). All of them are compiled for a form (``form``), and have in common how tiles lie
(``memory``). On the host there are the configurations (``configs``), and what the engine takes
(``tensors``); ``prefill_hopper`` has the launches.

Each group has its own copy of the code, and what runs once an item is fetched slowly: keep that
short.
"""
