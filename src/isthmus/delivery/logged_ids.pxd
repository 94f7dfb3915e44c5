import cython

from isthmus.delivery.receipt cimport Receipt
from isthmus.delivery.stored cimport Stored
from isthmus.store.log cimport Log


cpdef bytes packet_id_of(long long seq)


cdef class LoggedIds:
    cdef Log _log
    cdef set _renamed
    cdef dict _untold
    cdef dict _untold_closing
    cdef public dict taken

    @cython.locals(stored=Stored, log=Log)
    cpdef bytes of(self, Receipt receipt)
