import cython

from isthmus.delivery.outlet cimport Outlet


cdef class Plan:
    cdef object __weakref__
    cdef public object children
    cdef public int depth
    cdef public bint made
    cdef public list matched
    cdef public object missed
    cdef public list outlets
    cdef public list parents
    cdef public tuple personal
    cdef public list retaining
    cdef public list single
    cdef public bint stale
    cdef public bytes topic
    cdef public object tree
    cdef public set visited

    @cython.locals(outlet=Outlet)
    cpdef bint echoes_to(self, object key)

    cpdef bint renew(self)

    @cython.locals(plans=list, plan=Plan)
    cpdef expire(self, object missed=*)

    cpdef outlive(self, object subscription)


cdef class _Generation:
    cdef public object index
    cdef public dict plans


cdef class PlanCache:
    cdef public _Generation _old
    cdef public _Generation _young
    cdef public Py_ssize_t size

    @cython.locals(plan=Plan)
    cpdef Plan get(self, bytes topic)

    @cython.locals(young=_Generation)
    cpdef put(self, bytes topic, Plan plan)

    @cython.locals(plan=Plan)
    cpdef came(self, bytes filter_, object subscription)

    @cython.locals(plan=Plan)
    cpdef went(self, bytes filter_, object subscription)

    @cython.locals(
        found=list, young=_Generation, old=_Generation, plan=Plan, generation=_Generation,
        plans=dict, topic=bytes,
    )
    cpdef list _below(self, bytes filter_)
