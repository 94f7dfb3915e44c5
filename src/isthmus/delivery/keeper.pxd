from isthmus.delivery.receipt cimport Receipt


cdef class Keeper:
    cpdef bint takes(self, int first, Receipt receipt)
    cpdef append(
        self, bytes topic, int first, bytes properties, bytes payload, Receipt receipt
    )
