import cython

from isthmus.delivery.plan cimport Plan, PlanCache


cdef class Exchange:
    cdef public object name
    cdef public PlanCache plans
    cdef public object _matching
    cdef public object _tree

    @cython.locals(plan=Plan)
    cpdef Plan plan(self, bytes topic)

    cpdef Plan _new(self, bytes topic)

    @cython.locals(plan=Plan)
    cpdef Plan node(self, bytes topic)

    @cython.locals(plan=Plan, own=Plan)
    cpdef Plan plan_for(self, bytes topic, object origin)
