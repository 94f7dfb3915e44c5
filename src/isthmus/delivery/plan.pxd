import cython

from isthmus.delivery.outlet cimport Outlet


cdef class Plan:
    # First what is looked at for each message, or for each subscription that comes and goes.
    cdef public bint stale
    cdef public bint made
    cdef public list outlets
    cdef public object missed
    cdef public object children
    cdef public bytes topic
    cdef public int depth
    cdef object __weakref__
    cdef public list matched
    cdef public list parents
    cdef public tuple personal
    cdef public list retaining
    cdef public list single
    cdef public object tree
    cdef public set visited

    @cython.locals(outlet=Outlet)
    cpdef bint echoes_to(self, object key)

    cpdef bint renew(self)

    @cython.locals(plans=list, plan=Plan)
    cpdef expire(self, object missed=*)

    cpdef outlive(self, object subscription)


cdef class PlanCache:
    cdef public object _old
    cdef public object _young
    cdef public Py_ssize_t size

    @cython.locals(plan=Plan)
    cpdef Plan get(self, bytes topic)

    cpdef put(self, bytes topic, Plan plan)

    @cython.locals(plan=Plan)
    cpdef came(self, bytes filter_, object subscription)

    @cython.locals(plan=Plan)
    cpdef went(self, bytes filter_, object subscription)

    cpdef list _below(self, bytes filter_)
