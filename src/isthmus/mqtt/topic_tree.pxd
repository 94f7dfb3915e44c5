import cython


cdef class _Branch:
    cdef public dict children
    cdef public dict here
    cdef public _Branch plus
    cdef public dict rest

    cpdef bint empty(self)


@cython.locals(
    branches=list, below=list, branch=_Branch, child=_Branch, hidden=bint, level=bytes,
)
cpdef _collect(_Branch root, bytes topic, list found)


cdef class _Fork:
    cdef public dict children
    cdef public object here


@cython.locals(
    deep=bint, forks=list, below=list, fork=_Fork, level=bytes, depth=Py_ssize_t, values=list,
    children=dict,
)
cpdef list _below(_Fork root, list levels)
