"""What user code holds: a profile loaded for this machine, and the calls it drives.

The path of a call such as ``plan.decode(q, k, v, causal=True)``, by module:

1. arguments: ``calls`` takes them. What does not fit is refused by ``arguments``, as far as shapes
   go once for each shape, and where the call writes by ``outputs``, every time.
2. request: ``request`` holds all that is asked for beside queries, keys and values.
3. decision: ``resolve`` looks up what runs, or has ``decide`` find the measured choice that stands
   for the workload. ``alternatives`` chooses among some paths: none of others' libraries, say.
4. realise: ``realise`` brings the choice to the workload: its kernel, or another of the same path,
   in a configuration that fits. That is a ``decision.Decision``.
5. run: ``run`` has memory for partial results from ``workspaces``, and ``execute`` runs the kernel,
   or ``guard`` where calls are to be computed again; ``stats`` counts.

From the second call of a shape on, 3 and 4 are one look-up, and on a GPU 5 is the launches of a
call like it, bound once. What the host spends on a decode is a feature, and a test holds it.

Keys and values may be held in other forms. ``prepare`` converts them once for many calls, to a
``prepared.PreparedKV``. ``new_cache`` makes a ``kv_cache.KVCache`` in the form that ``storage``
chooses for all phases; calls on it take the same path by ``cached`` and ``cached_resolve``.

Around it, ``load`` finds a profile and makes a ``plan.Plan`` of it, ``explain`` says what would run
and why, ``sdpa``, ``torch_op`` and ``broadcast`` take calls in torch's manner, and ``capture``
writes a model's own tensors for ``autoprec tune``.
"""
